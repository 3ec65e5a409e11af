// From raw lines to what may be claimed. Pure: the same lines always give the same summary.
import {
  CONTENDER_NAMES,
  type ContenderName,
  FIGURE_SHARE,
  FIGURES,
  GOALS,
  MEMORY_GOALS,
  OWN_GOALS,
  type PeerName,
  type ScenarioName,
} from './constants.ts'
import type { Measurement } from './measure.ts'

/** Which half of an A/A pair; all others have only an `a`. */
export type Side = 'a' | 'b'

interface About {
  readonly contender: ContenderName
  readonly side: Side
  readonly repetition: number
}

export interface Sample extends About, Measurement {
  readonly kind: 'sample'
  readonly scenario: ScenarioName
}

export interface Failure extends About {
  readonly kind: 'failure'
  readonly scenario: ScenarioName | undefined
  readonly reason: string
}

export interface MemoryLine extends About {
  readonly kind: 'memory'
  readonly rssBytes: number
  readonly peakRssBytes: number
}

export interface Lines {
  readonly samples: readonly Sample[]
  readonly failures: readonly Failure[]
  readonly memory: readonly MemoryLine[]
}

export type Verdict = 'met' | 'missed' | 'not distinguishable' | 'not claimed'

/** One contender in one scenario, over all repetitions and both halves of a pair. */
export interface Figure {
  readonly contender: ContenderName
  readonly repetitions: number
  /** Operations per CPU-second: median, least, most. */
  readonly median: number
  readonly least: number
  readonly most: number
  readonly serverMicros: number
  readonly postgresMicros: number | undefined
  readonly redisMicros: number | undefined
  readonly perWallSecond: number
  readonly p99Milliseconds: number
  readonly utilisation: number
  /** Of its figure in constants.ts; undefined where that has none. */
  readonly shareOfFigure: number | undefined
  readonly notes: Readonly<Record<string, string>>
}

export interface Comparison {
  readonly peer: PeerName
  readonly ratio: number
  readonly goal: number | undefined
  /** On the goal. `not claimed`: no goal, or the peer is not what its figure says. */
  readonly verdict: Verdict
  /** Whether the two servers differ by more than the same server differs from itself. */
  readonly distinguishable: boolean
  readonly because: string | undefined
}

export interface ScenarioSummary {
  readonly scenario: ScenarioName
  /** The smallest difference that may be claimed, 0.05 for 5 %. Undefined without a complete pair. */
  readonly spread: number | undefined
  readonly figures: readonly Figure[]
  readonly comparisons: readonly Comparison[]
}

export interface MemorySummary {
  readonly contender: ContenderName
  readonly peakBytes: number
  readonly ratio: number | undefined
  readonly goal: number | undefined
  readonly verdict: Verdict
}

/** One scenario of ours against another of ours. */
export interface OwnRatio {
  readonly scenario: ScenarioName
  readonly of: ScenarioName
  readonly ratio: number
  readonly goal: number
  readonly verdict: Verdict
}

export interface Summary {
  /** Whose A/A pair the spread is. */
  readonly pair: ContenderName | undefined
  readonly scenarios: readonly ScenarioSummary[]
  readonly own: readonly OwnRatio[]
  readonly memory: readonly MemorySummary[]
  readonly failures: readonly Failure[]
}

export function summarise(lines: Lines, { scenarios }: { scenarios: readonly ScenarioName[] }): Summary {
  const summaries = scenarios.map((scenario) => summariseScenario(lines.samples, scenario))
  return {
    pair: lines.samples.find(({ side }) => side === 'b')?.contender,
    scenarios: summaries,
    own: compareOwn(summaries),
    memory: summariseMemory(lines.memory),
    failures: lines.failures,
  }
}

function summariseScenario(all: readonly Sample[], scenario: ScenarioName): ScenarioSummary {
  const samples = all.filter((sample) => sample.scenario === scenario)
  const figures = CONTENDER_NAMES.flatMap((contender) => makeFigure(samples, contender, scenario))
  const spread = pairSpread(samples)
  const own = figures.find(({ contender }) => contender === 'latchkey')
  const comparisons = own === undefined ? [] : figures.flatMap((peer) => compare(own, peer, { scenario, spread }))
  return { scenario, spread, figures, comparisons }
}

function compareOwn(summaries: readonly ScenarioSummary[]): OwnRatio[] {
  const find = (name: ScenarioName) => {
    const summary = summaries.find(({ scenario }) => scenario === name)
    const figure = summary?.figures.find(({ contender }) => contender === 'latchkey')
    return summary && figure && { spread: summary.spread, median: figure.median }
  }
  return summaries.flatMap(({ scenario }): OwnRatio[] => {
    const goal = OWN_GOALS[scenario]
    const [own, other] = [find(scenario), goal && find(goal.of)]
    if (!goal || !own || !other) return []
    const ratio = own.median / other.median
    const spread = Math.max(own.spread ?? 0, other.spread ?? 0) // the wider of the two pairs
    return [{ scenario, of: goal.of, ratio, goal: goal.ratio, verdict: judge(ratio, goal.ratio, spread) }]
  })
}

function makeFigure(all: readonly Sample[], contender: ContenderName, scenario: ScenarioName): Figure[] {
  const samples = all.filter((sample) => sample.contender === contender)
  const [first] = samples
  if (!first) return []
  const middle = (of: (sample: Sample) => number) => median(samples.map(of))
  const middleOfKnown = (of: (sample: Sample) => number | undefined) => {
    const known = samples.map(of).filter((value) => value !== undefined)
    return known.length === 0 ? undefined : median(known)
  }
  const figures = samples.map(({ perCpuSecond }) => perCpuSecond)
  const expected = contender === 'latchkey' ? undefined : FIGURES[contender][scenario]
  return [
    {
      contender,
      repetitions: samples.length,
      median: median(figures),
      least: Math.min(...figures),
      most: Math.max(...figures),
      serverMicros: middle((sample) => sample.serverMicros),
      postgresMicros: middleOfKnown((sample) => sample.postgresMicros),
      redisMicros: middleOfKnown((sample) => sample.redisMicros),
      perWallSecond: middle((sample) => sample.perWallSecond),
      p99Milliseconds: middle((sample) => sample.p99Milliseconds),
      utilisation: middle((sample) => sample.serverUtilisation),
      shareOfFigure: expected === undefined ? undefined : median(figures) / expected,
      notes: first.notes,
    },
  ]
}

/** The largest factor between the two halves of the pair in one repetition, less 1: the cautious reading of a spread. */
export function pairSpread(samples: readonly Sample[]): number | undefined {
  const seconds = samples.filter(({ side }) => side === 'b')
  const factors = seconds.flatMap((b) => {
    const a = samples.find(
      (sample) => sample.side === 'a' && sample.contender === b.contender && sample.repetition === b.repetition,
    )
    return a === undefined ? [] : [Math.max(a.perCpuSecond / b.perCpuSecond, b.perCpuSecond / a.perCpuSecond)]
  })
  return factors.length === 0 ? undefined : Math.max(...factors) - 1
}

interface Circumstances {
  readonly scenario: ScenarioName
  readonly spread: number | undefined
}

function compare(own: Figure, peer: Figure, { scenario, spread }: Circumstances): Comparison[] {
  if (peer.contender === 'latchkey') return []
  const goal = GOALS[peer.contender]?.[scenario]
  const ratio = own.median / peer.median
  const because = whyNotClaimed(peer, spread)
  const verdict = because === undefined ? judge(ratio, goal, spread) : 'not claimed'
  const distinguishable = spread !== undefined && !within(ratio, 1, spread)
  return [{ peer: peer.contender, ratio, goal, verdict, distinguishable, because }]
}

function whyNotClaimed({ shareOfFigure }: Figure, spread: number | undefined): string | undefined {
  if (spread === undefined) return 'no A/A pair'
  if (shareOfFigure === undefined) return 'the peer has no figure to be checked by'
  if (shareOfFigure >= FIGURE_SHARE) return undefined
  return `the peer is at ${Math.round(shareOfFigure * 100)} % of its figure`
}

/** Whether two numbers are apart by no more than the spread, whichever is the larger. */
function within(ratio: number, other: number, spread: number): boolean {
  return Math.max(ratio / other, other / ratio) <= 1 + spread
}

function judge(ratio: number, goal: number | undefined, spread = 0): Verdict {
  if (goal === undefined) return 'not claimed'
  if (within(ratio, goal, spread)) return 'not distinguishable'
  return ratio > goal ? 'met' : 'missed'
}

function summariseMemory(lines: readonly MemoryLine[]): MemorySummary[] {
  const peakOf = (contender: ContenderName) => {
    const peaks = lines.filter((line) => line.contender === contender).map(({ peakRssBytes }) => peakRssBytes)
    return peaks.length === 0 ? undefined : median(peaks)
  }
  const own = peakOf('latchkey')
  return CONTENDER_NAMES.flatMap((contender): MemorySummary[] => {
    const peakBytes = peakOf(contender)
    if (peakBytes === undefined) return []
    const goal = contender === 'latchkey' ? undefined : MEMORY_GOALS[contender]
    const ratio = own === undefined || contender === 'latchkey' ? undefined : own / peakBytes
    const verdict = ratio === undefined || goal === undefined ? 'not claimed' : ratio <= goal ? 'met' : 'missed'
    return [{ contender, peakBytes, ratio, goal, verdict }]
  })
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const half = Math.floor(sorted.length / 2)
  const upper = sorted[half] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] ?? Number.NaN) + upper) / 2
}
