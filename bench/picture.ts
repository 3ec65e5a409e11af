// The figures as bars: one group a scenario, each group to its own scale, since scenarios differ a hundredfold.
import { CONTENDER_NAMES, type ContenderName } from './constants.ts'
import { TITLES, titleOf } from './report.ts'
import type { Figure, Summary } from './statistics.ts'

const COLOURS: Readonly<Record<ContenderName, string>> = {
  latchkey: '#1f6feb',
  'oidc-provider-memory': '#8a94a6',
  'oidc-provider-redis': '#5b6577',
  'better-auth': '#b7791f',
  bare: '#c9d1dc',
}

const WIDTH = 880
const LABEL_WIDTH = 190
const BAR_WIDTH = 560
const BAR_HEIGHT = 16
const ROW_HEIGHT = 20
const TITLE_HEIGHT = 26
const GROUP_GAP = 14

export function drawPicture({ scenarios }: Summary): string {
  const parts: string[] = []
  let top = 44
  for (const { scenario, figures } of scenarios) {
    if (figures.length === 0) continue
    parts.push(text({ x: 16, y: top + 16, weight: 600 }, titleOf(scenario)))
    top += TITLE_HEIGHT
    const longest = Math.max(...figures.map(({ most }) => most))
    for (const name of CONTENDER_NAMES) {
      const figure = figures.find(({ contender }) => contender === name)
      if (!figure) continue
      parts.push(drawBar(figure, top, BAR_WIDTH / longest))
      top += ROW_HEIGHT
    }
    top += GROUP_GAP
  }
  const heading = text(
    { x: 16, y: 26, weight: 600, size: 15 },
    'Operations per CPU-second of the server (more is better)',
  )
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${top}" width="${WIDTH}" height="${top}" role="img">`,
    '<title>Operations per CPU-second of the server, by scenario</title>',
    `<rect width="${WIDTH}" height="${top}" fill="#ffffff"/>`,
    heading,
    ...parts,
    '</svg>\n',
  ].join('\n')
}

/** The bar is the median; the thin line over it reaches from the least to the most. */
function drawBar({ contender, median, least, most }: Figure, top: number, scale: number): string {
  const middle = top + BAR_HEIGHT / 2
  const at = (value: number) => (LABEL_WIDTH + value * scale).toFixed(1)
  const width = Math.max(1, median * scale).toFixed(1)
  return [
    text({ x: LABEL_WIDTH - 8, y: top + 12, anchor: 'end' }, TITLES[contender]),
    `<rect x="${LABEL_WIDTH}" y="${top}" width="${width}" height="${BAR_HEIGHT}" rx="2" fill="${COLOURS[contender]}"/>`,
    `<line x1="${at(least)}" x2="${at(most)}" y1="${middle}" y2="${middle}" stroke="#101828" stroke-width="1.5"/>`,
    text({ x: LABEL_WIDTH + most * scale + 8, y: top + 12 }, Math.round(median).toLocaleString('en-US')),
  ].join('\n')
}

interface TextStyle {
  readonly x: number
  readonly y: number
  readonly weight?: number
  readonly size?: number
  readonly anchor?: 'start' | 'end'
}

function text({ x, y, weight = 400, size = 12, anchor = 'start' }: TextStyle, content: string): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
  const font = `font-family="system-ui, sans-serif" font-size="${size}" font-weight="${weight}"`
  return `<text x="${x.toFixed(1)}" y="${y}" ${font} fill="#101828" text-anchor="${anchor}">${escaped}</text>`
}
