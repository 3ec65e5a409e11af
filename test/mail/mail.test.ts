// Mail: plain, to one address, with headers that nothing can be put into, and failures that name nobody.
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ConfigError, readConfig } from '../../src/config.ts'
import { Secret } from '../../src/crypto/secret.ts'
import { headerText } from '../../src/mail/rules.ts'
import { createMailer, type Mailer } from '../../src/mail/service.ts'
import { addressesOf, startMailServer, type TestMailServer } from './mail-server.ts'

let server: TestMailServer
let mailer: Mailer

beforeAll(async () => {
  server = await startMailServer()
  mailer = createMailer({ url: new Secret(server.url), from: 'latchkey@id.example.com' })
})
beforeEach(() => {
  server.received.length = 0
  server.refuse = () => undefined
  server.refuseSender = () => undefined
})
afterAll(async () => {
  mailer.close()
  await server.close()
})

const MAIL = { to: 'ada@example.com', subject: 'A token expires', text: 'It does.\n', id: 'abc' }

describe('a mail', () => {
  it('arrives as plain text, from the configured address, with the same id each time', async () => {
    expect(await mailer.send(MAIL)).toBe('sent')
    expect(await mailer.send(MAIL)).toBe('sent')
    expect(server.received).toHaveLength(2)
    const [first, second] = server.received
    expect(first).toMatchObject({ subject: 'A token expires', html: false, messageId: '<abc@id.example.com>' })
    expect(first?.text?.trim()).toBe('It does.')
    expect(first?.from?.value).toEqual([{ name: 'Latchkey', address: 'latchkey@id.example.com' }])
    expect(first?.headers.get('auto-submitted')).toBe('auto-generated')
    expect(second?.messageId).toBe(first?.messageId)
  })

  it('has the headers and the recipient that we give it, whatever a subject or an address holds', async () => {
    const injected = 'x\r\nBcc: mallory@example.com\r\n\r\nbody'
    expect(await mailer.send({ ...MAIL, subject: injected, id: `abc>\r\nX-Mine: yes` })).toBe('sent')
    const [mail] = server.received
    expect(mail?.subject).toBe('x Bcc: mallory@example.com body')
    expect([...(mail?.headers.keys() ?? [])]).not.toEqual(expect.arrayContaining(['bcc']))
    expect([...(mail?.headers.keys() ?? [])]).not.toEqual(expect.arrayContaining(['x-mine']))
    expect(mail && addressesOf(mail)).toEqual(['ada@example.com'])
    server.received.length = 0
    await mailer.send({ ...MAIL, to: 'ada@example.com, mallory@example.com' }).catch(() => undefined)
    expect(server.received.flatMap(addressesOf)).not.toContain('mallory@example.com')
  })

  it('that is refused for good says so; every other failure rejects, without the address', async () => {
    server.refuse = (address) => ({ code: 550, sentence: `no such mailbox ${address}` })
    expect(await mailer.send(MAIL)).toBe('refused')
    server.refuse = (address) => ({ code: 451, sentence: `try later, ${address}` })
    const failure = await mailer.send(MAIL).catch((error: Error) => error)
    expect(failure).toBeInstanceOf(Error)
    expect(String((failure as Error).message)).toMatch(/451/)
    expect(JSON.stringify(failure, Object.getOwnPropertyNames(failure))).not.toContain('ada@')
    const nobody = createMailer({ url: new Secret('smtp://127.0.0.1:1'), from: 'a@example.com' })
    await expect(nobody.send(MAIL)).rejects.toThrow(/did not take a mail/)
    nobody.close()
  })
})

describe('a refusal', () => {
  it.each([
    [550, 'no such mailbox'],
    [550, '5.1.1 <ada@example.com>: User unknown'],
    [553, '5.1.3 <ada@example.com>: not an address'],
    [554, '5.1.10 <ada@example.com>: the domain takes no mail'],
    [551, '5.2.1 <ada@example.com>: mailbox disabled'],
  ])('of the recipient is final: %i %s', async (code, sentence) => {
    server.refuse = () => ({ code, sentence })
    expect(await mailer.send(MAIL)).toBe('refused')
  })

  it.each([
    [554, '5.7.1 <ada@example.com>: Relay access denied'],
    [550, '5.7.1 <latchkey@id.example.com>: Sender address rejected'],
    [550, '5.1.0 <latchkey@id.example.com>: Sender address rejected: User unknown'],
    [550, '5.1.8 <latchkey@id.example.com>: Sender address rejected: Domain not found'],
    [553, '5.1.7 <latchkey@id.example.com>: not an address'],
    [554, 'no'],
    [452, '4.1.1 later'],
  ])('of us when the recipient is named is for operators to mend: %i %s', async (code, sentence) => {
    server.refuse = () => ({ code, sentence })
    await expect(mailer.send(MAIL)).rejects.toThrow(`RCPT TO ${code}`)
  })

  it.each([550, 553, 554])('of our sender is for operators to mend: %i', async (code) => {
    server.refuseSender = () => ({ code, sentence: '5.7.1 not owned by user' })
    await expect(mailer.send(MAIL)).rejects.toThrow(`MAIL FROM ${code} 5.7.1`)
  })
})

describe('a header', () => {
  it.each([
    ['a\nb', 'a b'],
    ['a\r\n b', 'a b'],
    ['\u0000a\u0085b\u2028c', 'a b c'],
    ['  plain – ünïcode ', 'plain – ünïcode'],
  ])('holds one line: %j', (text, expected) => {
    expect(headerText(text).replaceAll(/ +/g, ' ')).toBe(expected)
  })
})

describe('the configuration', () => {
  const read = (environment: Record<string, string>) => readConfig(environment)
  it('mails nothing without a server, and needs a sender with one; the address of the server is a secret', () => {
    expect(read({}).mail).toBeUndefined()
    expect(() => read({ SMTP_URL: 'smtp://mail.example.com' })).toThrow(ConfigError)
    expect(() => read({ SMTP_URL: 'https://mail.example.com', LATCHKEY_MAIL_FROM: 'a@example.com' })).toThrow(
      'SMTP_URL',
    )
    expect(() => read({ SMTP_URL: 'smtp://mail.example.com', LATCHKEY_MAIL_FROM: 'a\r\nb' })).toThrow('MAIL_FROM')
    const config = read({ SMTP_URL: 'smtps://u:pa55@mail.example.com', LATCHKEY_MAIL_FROM: 'a@example.com' })
    expect(config.mail?.from).toBe('a@example.com')
    expect(JSON.stringify(config)).not.toContain('pa55')
  })

  it('reviews each quarter, or as it says', () => {
    expect(read({}).reviewEvery).toBe('quarterly')
    expect(read({ LATCHKEY_REVIEW_EVERY: 'off' }).reviewEvery).toBe('off')
    expect(() => read({ LATCHKEY_REVIEW_EVERY: 'weekly' })).toThrow('LATCHKEY_REVIEW_EVERY')
  })
})
