// JSON texts, looked at before they are parsed, and for what a parser does not tell. Pure.
const MOST_DEPTH = 200
/** Objects, lists, and members of objects; numbers and strings in a list take next to nothing. */
const MOST_PARTS = 100_000

const [QUOTE, COLON, COMMA, BACKSLASH] = [0x22, 0x3a, 0x2c, 0x5c]
const [OPENING_LIST, CLOSING_LIST, OPENING, CLOSING] = [0x5b, 0x5d, 0x7b, 0x7d]

/**
 * Why a JSON text must not be read, told without reading it: a parser works for seconds on millions of members, and nobody
 * else is served meanwhile. Undefined for one that may be read, and for what is none.
 */
export function excessOf(json: Buffer): 'deep' | 'many' | undefined {
  let [depth, parts] = [0, 0]
  for (let at = 0; at < json.byteLength; at++) {
    const byte = json[at]
    if (byte === QUOTE) at = endOfString(json, at)
    else if (byte === CLOSING || byte === CLOSING_LIST) depth -= 1
    else if (byte === OPENING || byte === OPENING_LIST || byte === COLON) {
      parts += 1
      if (byte !== COLON) depth += 1
      if (depth > MOST_DEPTH) return 'deep'
      if (parts > MOST_PARTS) return 'many'
    }
  }
  return undefined
}

/** Whether an object has two members of one name, of which parsers take one or the other. @param json is JSON */
export function namesTwice(json: Buffer): boolean {
  const open: Array<Set<string> | undefined> = [] // undefined: a list
  let isName = false
  for (let at = 0; at < json.byteLength; at++) {
    const byte = json[at]
    if (byte === OPENING) open.push(new Set())
    else if (byte === OPENING_LIST) open.push(undefined)
    else if (byte === CLOSING || byte === CLOSING_LIST) open.pop()
    if (byte === OPENING || byte === COMMA) isName = true
    if (byte !== QUOTE) continue
    const end = endOfString(json, at)
    const names = isName ? open.at(-1) : undefined
    if (names !== undefined) {
      const name: string = JSON.parse(json.toString('utf8', at, end + 1))
      if (names.has(name)) return true
      names.add(name)
    }
    isName = false
    at = end
  }
  return false
}

/** Of a string that begins there, its last byte; the end of the text where it has none. */
function endOfString(json: Buffer, start: number): number {
  let end = json.indexOf(QUOTE, start + 1)
  while (end !== -1 && isEscaped(json, end)) end = json.indexOf(QUOTE, end + 1)
  return end === -1 ? json.byteLength : end
}

function isEscaped(json: Buffer, at: number): boolean {
  let before = at
  while (json[before - 1] === BACKSLASH) before -= 1
  return (at - before) % 2 === 1
}
