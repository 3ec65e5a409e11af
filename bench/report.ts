// The summary as Markdown: figures, ratios against the goals, what the stores used, memory, and what went wrong.
import { CONTENDER_NAMES, type ContenderName, type SCENARIO_NAMES } from './constants.ts'
import type { MachineDescription } from './machine.ts'
import { SCENARIOS } from './scenarios.ts'
import type { Comparison, Figure, ScenarioSummary, Summary } from './statistics.ts'

export interface RunDescription {
  readonly started: Date
  readonly machine: MachineDescription
  readonly postgres: string | undefined
  readonly redis: string | undefined
  readonly connections: number
  readonly repetitions: number
  readonly seconds: number
  readonly warmUpSeconds: number
}

export const TITLES: Readonly<Record<ContenderName, string>> = {
  latchkey: 'Latchkey',
  'oidc-provider-memory': 'oidc-provider, memory',
  'oidc-provider-redis': 'oidc-provider, Redis',
  'better-auth': 'better-auth, PostgreSQL',
  bare: 'bare minimum',
}

export const titleOf = (name: (typeof SCENARIO_NAMES)[number]): string =>
  SCENARIOS.find((scenario) => scenario.name === name)?.title ?? name

export function renderReport(summary: Summary, run: RunDescription): string {
  const present = CONTENDER_NAMES.filter((name) =>
    summary.scenarios.some(({ figures }) => figures.some(({ contender }) => contender === name)),
  )
  const sections = [
    `# Benchmark of ${run.started.toISOString().slice(0, 16).replace('T', ' ')} UTC\n\n${describe(run)}`,
    renderFigures(summary, present),
    renderRatios(summary),
    renderStores(summary),
    renderMemory(summary),
    renderNotes(summary),
    renderFailures(summary),
  ]
  return `${sections.filter((section) => section !== '').join('\n\n')}\n`
}

function describe({ machine, postgres, redis, ...run }: RunDescription): string {
  const stores = [postgres && `PostgreSQL ${postgres}`, redis && `Redis ${redis}`].filter(Boolean).join(', ')
  const trial = run.repetitions < 5 ? ' **A trial: fewer than five repetitions are no result.**' : ''
  return [
    `Node ${machine.node.slice(1)}${stores && `, ${stores}`}; ${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB,`,
    `Linux ${machine.kernel}${machine.pinned ? '' : ', **processes not pinned**'}. ${run.connections} connections,`,
    `${run.repetitions} repetitions of ${run.seconds} s after ${run.warmUpSeconds} s of warm-up, a fresh process each.${trial}`,
  ].join(' ')
}

function renderFigures({ scenarios, pair }: Summary, present: readonly ContenderName[]): string {
  const rows = scenarios.map(({ scenario, spread, figures }) => [
    titleOf(scenario),
    ...present.map((name) => cell(figures.find(({ contender }) => contender === name))),
    spread === undefined ? '-' : percent(spread),
  ])
  const head = ['scenario', ...present.map((name) => TITLES[name]), 'A/A spread']
  const about =
    'Operations per CPU-second of the server: median (least to most). ' +
    `The spread is how far ${pair ? TITLES[pair] : 'one server'}, run twice, was from itself; a smaller difference is none. ` +
    'In brackets, the share of the figure that the peer had in November 2026.'
  return `## Figures\n\n${about}\n\n${table(head, rows)}`
}

function cell(figure: Figure | undefined): string {
  if (!figure) return '-'
  const { median, least, most, repetitions, shareOfFigure } = figure
  const range = repetitions > 1 ? ` (${count(least)} to ${count(most)})` : ''
  return `${count(median)}${range}${shareOfFigure === undefined ? '' : ` [${percent(shareOfFigure)}]`}`
}

function renderRatios({ scenarios, own }: Summary): string {
  const rows = scenarios.flatMap(({ scenario, comparisons }) =>
    comparisons.map((comparison) => [titleOf(scenario), TITLES[comparison.peer], ...ratioCells(comparison)]),
  )
  for (const { scenario, of, ratio, goal, verdict } of own)
    rows.push([titleOf(scenario), `its own ${titleOf(of)}`, ratio.toFixed(2), `≥ ${goal}`, verdict])
  if (rows.length === 0) return ''
  return `## Latchkey against its peers\n\n${table(['scenario', 'peer', 'ratio', 'goal', 'verdict'], rows)}`
}

function ratioCells({ ratio, goal, verdict, distinguishable, because }: Comparison): string[] {
  if (because !== undefined) return ['-', goal === undefined ? '-' : `≥ ${goal}`, `not claimed: ${because}`]
  const text = distinguishable ? ratio.toFixed(2) : `${ratio.toFixed(2)} (not distinguishable)`
  return goal === undefined ? [text, '-', '-'] : [text, `≥ ${goal}`, verdict]
}

function renderStores({ scenarios }: Summary): string {
  const rows = scenarios.flatMap(({ scenario, figures }) =>
    figures.map((figure) => [titleOf(scenario), TITLES[figure.contender], ...storeCells(figure)]),
  )
  const head = ['scenario', 'server', 'server µs', 'PostgreSQL µs', 'Redis µs', 'op/s', 'p99 ms', 'server busy']
  const about =
    'CPU microseconds an operation, each process by its own accounting; rates by the clock, for orientation.'
  return `## CPU of server and stores\n\n${about}\n\n${table(head, rows)}`
}

function storeCells(figure: Figure): string[] {
  const micros = (value: number | undefined) => (value === undefined || value < 0.05 ? '-' : value.toFixed(0))
  return [
    figure.serverMicros.toFixed(0),
    micros(figure.postgresMicros),
    micros(figure.redisMicros),
    count(figure.perWallSecond),
    figure.p99Milliseconds.toFixed(1),
    percent(figure.utilisation),
  ]
}

function renderMemory({ memory }: Summary): string {
  if (memory.length === 0) return ''
  const rows = memory.map(({ contender, peakBytes, ratio, goal, verdict }) => [
    TITLES[contender],
    `${Math.round(peakBytes / 2 ** 20)} MiB`,
    ratio === undefined ? '-' : ratio.toFixed(2),
    goal === undefined ? '-' : `≤ ${goal}`,
    goal === undefined || ratio === undefined ? '-' : verdict,
  ])
  return `## Peak memory after all of it\n\n${table(['server', 'peak', 'Latchkey ÷', 'goal', 'verdict'], rows)}`
}

function renderNotes({ scenarios }: Summary): string {
  const rows = scenarios.flatMap(({ scenario, figures }: ScenarioSummary) =>
    figures.flatMap(({ contender, notes }) => {
      const text = Object.entries(notes).map(([name, value]) => `${name} ${value}`)
      return text.length === 0 ? [] : [[titleOf(scenario), TITLES[contender], text.join(', ')]]
    }),
  )
  if (rows.length === 0) return ''
  return `## What the answers were made of\n\n${table(['scenario', 'server', 'tokens'], rows)}`
}

function renderFailures({ failures }: Summary): string {
  if (failures.length === 0) return ''
  const lines = failures.map(
    ({ contender, repetition, scenario, reason }) =>
      `* ${TITLES[contender]}, ${repetition === 0 ? 'set-up' : `repetition ${repetition}, ${scenario ?? 'process'}`}: ${reason.replaceAll(/\s+/g, ' ').slice(0, 400)}`,
  )
  return `## Not measured\n\n${lines.join('\n')}`
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

export const count = (value: number): string => Math.round(value).toLocaleString('en-US')
const percent = (share: number): string => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`
