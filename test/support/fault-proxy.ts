// A TCP proxy that knows what passes through it: it can hold, cut, refuse or report the very statement that a test means.
import { connect, createServer, type Socket } from 'node:net'

/**
 * - `asked`: the statement is here, and has not been passed on.
 * - `done`: it was answered; the answer has not been passed back.
 * - `answered`: the answer was passed back.
 */
export type Moment = 'asked' | 'done' | 'answered'

/** What the proxy does once a rule's `act` has run. `refuse` (PostgreSQL, at `asked`) answers in the database's place. */
export type Next = 'pass' | 'cut' | { refuse: string }

export interface Rule {
  /** A part of the statement or command, in lower case. */
  on: string
  /** PostgreSQL: a part of an earlier statement of the same transaction. A server has others under way. */
  within?: string | undefined
  at: Moment
  act(): Next | Promise<Next>
}

export interface FaultProxy {
  port: number
  /** The same address with this proxy's port. */
  through(url: string): string
  /** Applies to every statement from now on that the rule names, until it is taken back. */
  rule(rule: Rule): { remove(): void }
  /** The same for the first such statement only; resolves once `act` has run. */
  once(rule: Rule): Promise<void>
  /** Cuts every connection there is. */
  cutAll(): void
  /** As a network that drops everything: connections stay open, new ones too, and nothing arrives on either side. */
  freeze(): void
  /** What was held goes on. */
  thaw(): void
  /** Where connections from now on lead. */
  leadTo(target: string | number): void
  close(): Promise<void>
}

/** @param protocol `postgres` is read message by message; `plain` (Redis, HTTP) by what arrives together */
export async function startFaultProxy(target: string | number, protocol: 'postgres' | 'plain'): Promise<FaultProxy> {
  let upstream = addressOf(target)
  const rules = new Set<Rule>()
  const gate: Gate = { opened: undefined }
  let open = () => {}
  const connections = new Set<Connection>()
  const server = createServer((client) => {
    client.setNoDelay(true)
    const connection =
      protocol === 'postgres'
        ? relayPostgres(client, { address: upstream, gate }, rules)
        : relayPlain(client, { address: upstream, gate }, rules)
    connections.add(connection)
    client.on('close', () => connections.delete(connection))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  const { port } = address
  const add = (rule: Rule) => {
    rules.add(rule)
    return { remove: () => void rules.delete(rule) }
  }
  return {
    port,
    through(url) {
      const changed = new URL(url)
      changed.hostname = '127.0.0.1'
      changed.port = String(port)
      return changed.href
    },
    rule: add,
    once: (rule) =>
      new Promise((resolve, reject) => {
        const own = add({
          ...rule,
          async act() {
            own.remove()
            try {
              const next = await rule.act()
              resolve()
              return next
            } catch (error) {
              reject(error)
              return 'cut'
            }
          },
        })
      }),
    cutAll() {
      for (const connection of connections) connection.cut()
    },
    freeze() {
      gate.opened ??= new Promise((resolve) => {
        open = resolve
      })
    },
    thaw() {
      gate.opened = undefined
      open()
    },
    leadTo(elsewhere) {
      upstream = addressOf(elsewhere)
    },
    close() {
      for (const connection of connections) connection.cut()
      return new Promise((resolve) => server.close(() => resolve()))
    },
  }
}

interface Address {
  host: string
  port: number
}

function addressOf(target: string | number): Address {
  if (typeof target === 'number') return { host: '127.0.0.1', port: target }
  const { hostname, port, protocol } = new URL(target)
  return { host: hostname, port: Number(port || (protocol.startsWith('redis') ? 6379 : 5432)) }
}

interface Connection {
  cut(): void
}

/** Settles when what arrives may be handed on; undefined: at once. */
interface Gate {
  opened: Promise<void> | undefined
}

interface Way {
  address: Address
  gate: Gate
}

/** Hands on what each side sends, one piece after the other, also when a rule takes its time. */
function relay(
  client: Socket,
  { address, gate }: Way,
  make: (send: { up(data: Buffer): void; down(data: Buffer): void; cut(): void }) => {
    fromClient(data: Buffer): Promise<void>
    fromServer(data: Buffer): Promise<void>
  },
): Connection {
  const server = connect(address)
  server.setNoDelay(true)
  const cut = () => {
    client.destroy()
    server.destroy()
  }
  const handlers = make({
    up: (data) => void (server.destroyed || server.write(data)),
    down: (data) => void (client.destroyed || client.write(data)),
    cut,
  })
  const passing = (handle: (data: Buffer) => Promise<void>) => async (data: Buffer) => {
    while (gate.opened !== undefined) await gate.opened
    await handle(data)
  }
  pump(client, passing(handlers.fromClient), cut)
  pump(server, passing(handlers.fromServer), cut)
  return { cut }
}

function pump(from: Socket, handle: (data: Buffer) => Promise<void>, cut: () => void): void {
  let queue = Promise.resolve()
  from.on('data', (data) => {
    queue = queue.then(() => handle(data)).catch(cut)
  })
  from.on('error', cut)
  from.on('end', () => {
    queue = queue.then(() => void setImmediate(cut))
  })
  from.on('close', cut)
}

function find(
  rules: ReadonlySet<Rule>,
  text: string,
  moment: (at: Moment) => boolean,
  transaction = '',
): Rule | undefined {
  const words = wordsOf(text)
  return [...rules].find(
    ({ at, on, within }) => moment(at) && words.includes(on) && (within === undefined || transaction.includes(within)),
  )
}

const wordsOf = (text: string) => text.toLowerCase().replace(/\s+/g, ' ')

// --- Redis and HTTP -----------------------------------------------------------------------------------------------

function relayPlain(client: Socket, way: Way, rules: ReadonlySet<Rule>): Connection {
  let waiting: Rule | undefined
  return relay(client, way, ({ up, down, cut }) => ({
    async fromClient(data) {
      const text = data.toString('latin1')
      const asked = find(rules, text, (at) => at === 'asked')
      if (asked !== undefined && (await asked.act()) !== 'pass') return cut()
      waiting ??= find(rules, text, (at) => at !== 'asked')
      up(data)
    },
    async fromServer(data) {
      const rule = waiting
      waiting = undefined
      if (rule?.at === 'answered') down(data)
      if (rule !== undefined && (await rule.act()) !== 'pass') return cut()
      if (rule?.at !== 'answered') down(data)
    },
  }))
}

// --- PostgreSQL (protocol 3.0) --------------------------------------------------------------------------------------

interface Message {
  type: string
  bytes: Buffer
}

/** Cuts a stream into messages; the first one of a client has no type. */
function createMessages(untypedFirst: boolean): (data: Buffer) => Message[] {
  let rest: Buffer = Buffer.alloc(0)
  let untyped = untypedFirst
  return (data) => {
    rest = Buffer.concat([rest, data])
    const messages: Message[] = []
    for (;;) {
      const head = untyped ? 0 : 1
      if (rest.length < head + 4) return messages
      const size = head + rest.readInt32BE(head)
      if (rest.length < size) return messages
      messages.push({ type: untyped ? '' : String.fromCharCode(rest[0] ?? 0), bytes: rest.subarray(0, size) })
      rest = rest.subarray(size)
      untyped = false
    }
  }
}

/** The SQL that a batch runs: named statements are sent once a connection, and by their name from then on. */
function createSqlReader(): (batch: readonly Message[]) => string {
  const named = new Map<string, string>()
  const textAt = (bytes: Buffer, start: number): [text: string, end: number] => {
    const end = bytes.indexOf(0, start)
    return [bytes.toString('utf8', start, end), end + 1]
  }
  return (batch) => {
    let sql = ''
    for (const { type, bytes } of batch) {
      if (type === 'Q') return textAt(bytes, 5)[0]
      if (type === 'P') {
        const [name, start] = textAt(bytes, 5)
        sql = textAt(bytes, start)[0]
        named.set(name, sql)
      }
      if (type === 'B') {
        const [, start] = textAt(bytes, 5) // after the portal's name
        sql = named.get(textAt(bytes, start)[0]) ?? ''
      }
    }
    return sql
  }
}

function relayPostgres(client: Socket, way: Way, rules: ReadonlySet<Rule>): Connection {
  const readClient = createMessages(true)
  const readServer = createMessages(false)
  const sqlOf = createSqlReader()
  let status = 'I' // as the database last said: idle, in a transaction, in a failed one
  let transaction = '' // what was asked in it
  let batch: Message[] = [] // up to Sync, or one message alone
  let waiting: Rule | undefined
  const withheld: Buffer[] = []
  return relay(client, way, ({ up, down, cut }) => ({
    async fromClient(data) {
      for (const message of readClient(data)) {
        batch.push(message)
        if ('PBDEC'.includes(message.type) && message.type !== '') continue
        const sql = sqlOf(batch)
        const bytes = Buffer.concat(batch.map((part) => part.bytes))
        batch = []
        const asked = sql === '' ? undefined : find(rules, sql, (at) => at === 'asked', transaction)
        const next = asked === undefined ? 'pass' : await asked.act()
        if (next === 'cut') return cut()
        if (next !== 'pass') {
          down(refusal(next.refuse, status))
          continue
        }
        if (sql !== '') waiting ??= find(rules, sql, (at) => at !== 'asked', transaction)
        transaction += wordsOf(sql)
        up(bytes)
      }
    },
    async fromServer(data) {
      for (const message of readServer(data)) {
        if (waiting?.at === 'done') withheld.push(message.bytes)
        else down(message.bytes)
        if (message.type !== 'Z') continue
        status = String.fromCharCode(message.bytes[5] ?? 0)
        if (status === 'I') transaction = ''
        const rule = waiting
        waiting = undefined
        if (rule !== undefined && (await rule.act()) !== 'pass') return cut()
        for (const bytes of withheld.splice(0)) down(bytes)
      }
    },
  }))
}

/** ErrorResponse and ReadyForQuery: what the database itself would say. */
function refusal(sqlstate: string, status: string): Buffer {
  const fields = Buffer.from(`SERROR\0VERROR\0C${sqlstate}\0Mrefused for a test\0\0`)
  const error = Buffer.alloc(5)
  error.write('E')
  error.writeInt32BE(4 + fields.length, 1)
  const ready = Buffer.from([0x5a, 0, 0, 0, 5, (status === 'I' ? 'I' : 'E').charCodeAt(0)])
  return Buffer.concat([error, fields, ready])
}
