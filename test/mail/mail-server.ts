// A mail server for tests: it keeps what it was given, and can be slow, refuse, or be away.
import { type ParsedMail, simpleParser } from 'mailparser'
import { SMTPServer } from 'smtp-server'

interface Answer {
  code: number
  sentence: string
}

export interface TestMailServer {
  port: number
  url: string
  received: ParsedMail[]
  /** What it answers to a recipient; undefined: it is taken. */
  refuse: (address: string) => Answer | undefined
  /** What it answers to a sender. */
  refuseSender: () => Answer | undefined
  /** Before it answers that a mail is taken. */
  delayMs: number
  close(): Promise<void>
}

export async function startMailServer(port = 0): Promise<TestMailServer> {
  const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ['STARTTLS'],
    onMailFrom: (_address, _session, done) => answer(mail.refuseSender(), done),
    onRcptTo: (address, _session, done) => answer(mail.refuse(address.address), done),
    onData(stream, _session, done) {
      simpleParser(stream).then(
        (parsed) => {
          mail.received.push(parsed)
          setTimeout(done, mail.delayMs)
        },
        (error: Error) => done(error),
      )
    },
  })
  server.on('error', () => {}) // a client that was killed
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', () => resolve()))
  const address = server.server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  const mail: TestMailServer = {
    port: address.port,
    url: `smtp://127.0.0.1:${address.port}`,
    received: [],
    refuse: () => undefined,
    refuseSender: () => undefined,
    delayMs: 0,
    close: () => new Promise<void>((resolve) => server.close(() => resolve())),
  }
  return mail
}

function answer(refusal: Answer | undefined, done: (error?: Error) => void): void {
  if (refusal === undefined) done()
  else done(Object.assign(new Error(refusal.sentence), { responseCode: refusal.code }))
}

export function addressesOf({ to }: ParsedMail): string[] {
  return [to ?? []].flat().flatMap(({ value }) => value.map(({ address }) => address ?? ''))
}
