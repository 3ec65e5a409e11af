// What commands print: the object itself for machines, lines for people.
import type { App } from '../app.ts'
import type { Config } from '../config.ts'
import { TOUR_EMAIL } from '../tour/service.ts'

export function printResult(result: unknown, json: boolean): void {
  process.stdout.write(`${json ? JSON.stringify(result, undefined, 2) : describe(result)}\n`)
}

function describe(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? 'none' : value.map((item) => describe(item)).join('\n\n')
  if (typeof value !== 'object' || value === null) return String(value)
  const entries = Object.entries(value)
  const width = Math.max(...entries.map(([name]) => name.length))
  return entries.map(([name, member]) => `${name.padEnd(width)}  ${plain(member)}`).join('\n')
}

function plain(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? '-' : value.map(plain).join(', ')
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : String(value ?? '-')
}

const PROGRESS_EVERY_MS = 500
const PROGRESS_LINE_EVERY_MS = 10_000

/** Says on standard error how far long work has come: in place on a terminal, else in a line now and then. */
export function createProgress(): (done: number) => void {
  const { isTTY } = process.stderr
  let saidAt = performance.now()
  return (done) => {
    if (performance.now() - saidAt < (isTTY ? PROGRESS_EVERY_MS : PROGRESS_LINE_EVERY_MS)) return
    saidAt = performance.now()
    process.stderr.write(`${isTTY ? '\r' : ''}${done.toLocaleString('en')} records${isTTY ? ' ' : '\n'}`)
  }
}

/** How to go on, for whoever started the server by hand. */
export function printWelcome(config: Config, app: App): void {
  if (config.production) return
  const lines = ['', `  Latchkey is ready at ${config.issuer}`, '']
  if (app.tour !== undefined) {
    lines.push(`  Watch a plugin connect:   ${config.issuer}/try`, `  Sign in as:               ${TOUR_EMAIL}`)
    lines.push(
      app.tour.password === undefined
        ? `  Password:                 as printed at the first start. A new one:\n                            echo "a long new password" | npm run latchkey -- user set-password ${TOUR_EMAIL} --password-stdin`
        : `  Password:                 ${app.tour.password.reveal()}   (shown this once)`,
    )
    lines.push('')
  }
  lines.push('  Commands for operators:   npm run latchkey -- --help', '')
  process.stderr.write(`${lines.join('\n')}\n`)
}
