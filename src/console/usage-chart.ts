// Spend by month as a drawing: geometry in attributes, colour in classes, and all of it in words. Pure.
import type { Micros, Month } from '../usage/rules.ts'
import { monthName, roundedText, shortMonth } from './money.ts'

/** What one workspace spent. */
export interface Series {
  name: string
  months: readonly Month[]
  spent: readonly Micros[]
  /** In the last month. */
  heldMicros: Micros
  capMicros: Micros | undefined
}

interface Bar {
  x: number
  y: number
  height: number
  kind: string
  label: { x: number; text: string; isNow: boolean }
}

export interface Chart {
  height: number
  barWidth: number
  bars: Bar[]
  held: { x: number; y: number; width: number; height: number } | undefined
  axisY: number
  capY: number | undefined
  labelY: number
  /** What the drawing says. */
  title: string
}

export const CHART_WIDTH = 256
const TOP = 8
const LABELS = 22
const GAP = 12
const EDGE = 4

/** A cap further above what is spent than this would leave nothing to see: it is said and not drawn. */
const HIGHEST_CAP = 3n

/** The most that is drawn: drawings beside each other share it. */
export function scaleOf(all: readonly Series[]): Micros {
  const spent = all.flatMap((series) => [...series.spent, (series.spent.at(-1) ?? 0n) + series.heldMicros])
  const most = greatest(spent)
  const caps = all.flatMap(({ capMicros }) => (capMicros === undefined ? [] : [capMicros]))
  return greatest([most, ...caps.filter((cap) => cap <= most * HIGHEST_CAP), 1n])
}

const greatest = (amounts: readonly Micros[]) => amounts.reduce((most, one) => (one > most ? one : most), 0n)

export function chartOf(series: Series, scale: Micros, options: { plot: number; currency: string }): Chart {
  const { months, spent, heldMicros, capMicros } = series
  const axisY = TOP + options.plot
  const upTo = (micros: Micros) => round((Number((micros * 10_000n) / scale) / 10_000) * options.plot)
  const slot = (CHART_WIDTH - EDGE) / months.length
  const barWidth = round(slot - GAP)
  const bars = months.map((month, place): Bar => {
    const micros = spent[place] ?? 0n
    const height = micros > 0n ? Math.max(upTo(micros), 1) : 0
    const isNow = place === months.length - 1
    const x = round(EDGE + place * slot)
    const isOver = capMicros !== undefined && micros > capMicros
    return {
      x,
      y: round(axisY - height),
      height,
      kind: `bar${isNow ? ' now' : ''}${isOver ? ' over' : ''}`,
      label: { x: round(x + barWidth / 2), text: shortMonth(month), isNow },
    }
  })
  const last = bars.at(-1)
  const held = heldMicros > 0n && last !== undefined ? Math.max(upTo(heldMicros), 2) : 0
  return {
    height: axisY + LABELS,
    barWidth,
    bars,
    held:
      last === undefined || held === 0
        ? undefined
        : { x: last.x + 0.5, y: round(last.y - held - 1), width: barWidth - 1, height: held },
    axisY: axisY + 0.5,
    capY: capMicros === undefined || capMicros > scale ? undefined : round(axisY - upTo(capMicros)) + 0.5,
    labelY: axisY + 16,
    title: titleOf(series, options.currency),
  }
}

function titleOf({ name, months, spent, heldMicros, capMicros }: Series, currency: string): string {
  const amounts = months.map((month, place) => `${monthName(month)} ${roundedText(spent[place] ?? 0n)}`).join(', ')
  const held = heldMicros > 0n ? `; held ${roundedText(heldMicros)} ${currency}` : ''
  const cap = capMicros === undefined ? 'no cap' : `monthly cap ${roundedText(capMicros)} ${currency}`
  return `${name}: ${amounts} ${currency}${held}; ${cap}`
}

const round = (number: number) => Math.round(number * 10) / 10
