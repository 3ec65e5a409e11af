// Every line that a server of a test logs is looked at: identifiers stand where they belong, or the test that made the line
// fails (setup.ts). Written without the logger's own patterns, so that a hole in these is seen.

/** What a line of our logger may hold; anything else passed it by. */
const NAMES = new Set(['level', 'time', 'msg', 'trace_id', 'profile_id', 'workspace_id', 'method', 'route', 'status'])
const OF_THE_SERVER = new Set(['duration_ms', 'err', 'signal', 'kind', 'head', 'known'])
const OF_AN_ERROR = new Set(['name', 'message', 'code', 'stack', 'cause'])

const FORBIDDEN: Record<string, RegExp> = {
  'the id of a person': /usr_[0-9a-z]{3,}/,
  'a token': /tid_ws_|td_live_/,
  'a refresh or access token': /lk_[a-z]{2}_[\w-]/,
  'a JWT': /eyJ\w+\.\w+/,
  'the version of a token': /token_?version["'\\:=\s]{0,6}v?\d/i,
}
const ADDRESS = /\w@(?:\w+\.)+[a-z]{2,}\b/i
const ANY_ID = /\b(?:ws|org|usr|key|con|fam|inv|cl|aud)_[0-9a-z]{26}\b/

/** What is wrong with a line; nothing where nothing is. */
export function breachesIn(line: string): string[] {
  const said = Object.entries(FORBIDDEN).flatMap(([what, form]) => (form.test(line) ? [`${what}: ${line}`] : []))
  if (!line.startsWith('{')) return said // printed, not logged
  const fields = JSON.parse(line) as Record<string, unknown>
  const unknown = Object.keys(fields).filter((name) => !NAMES.has(name) && !OF_THE_SERVER.has(name))
  return [
    ...said,
    ...(ADDRESS.test(line) ? [`the address of a person: ${line}`] : []),
    ...[...unknown, ...unknownOfErrors(fields.err)].map((name) => `the field ${name}: ${line}`),
    // An address as it was asked for would say what the template does not.
    ...(ANY_ID.test(String(fields.route)) || /[?%]/.test(String(fields.route ?? '')) ? [`a raw path: ${line}`] : []),
  ]
}

function unknownOfErrors(error: unknown): string[] {
  if (typeof error !== 'object' || error === null) return []
  const names = Object.keys(error).filter((name) => !OF_AN_ERROR.has(name))
  return [...names, ...unknownOfErrors(Reflect.get(error, 'cause'))]
}

let breaches: string[] = []

/** Looks at a line; what is wrong with it fails the test that runs. */
export function watch(line: string): void {
  breaches.push(...breachesIn(line.trimEnd()))
}

/** What was found since the last time. */
export function takeBreaches(): string[] {
  const found = breaches
  breaches = []
  return found
}

/** Where a server of a test logs to. */
export function watchedLog(): { lines: string[]; write(line: string): void } {
  const lines: string[] = []
  return {
    lines,
    write(line) {
      lines.push(line)
      watch(line)
    },
  }
}

/** Watches what a process prints, line by line as it comes. */
export function watchOutput(): (chunk: string) => void {
  let rest = ''
  return (chunk) => {
    const printed = (rest + chunk).split('\n')
    rest = printed.pop() ?? ''
    for (const line of printed) watch(line)
  }
}
