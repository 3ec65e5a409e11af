// The command line as an operator runs it: other processes, beside a running server and without one.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ROOT } from '../../src/app.ts'
import { controlPath } from '../../src/cli/control.ts'
import { createSinkSigner } from '../../src/sink/signing.ts'
import { freePort } from '../support/server.ts'

const MAIN = join(ROOT, 'src/main.ts')

describe('the command line in the embedded default', () => {
  let directory: string
  let port: number
  let server: ChildProcess | undefined

  const environment = () => ({
    PATH: process.env.PATH,
    NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE,
    PORT: String(port),
    LATCHKEY_DATA_DIR: directory,
    LATCHKEY_LOG_LEVEL: 'error',
  })

  async function latchkey(args: string[], input = '') {
    const child = spawn(process.execPath, [MAIN, ...args], { env: environment() })
    child.stdin.end(input)
    const [stdout, stderr, code] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      new Promise<number | null>((resolve) => child.on('exit', resolve)),
    ])
    return { stdout, stderr, code }
  }

  async function startServing(): Promise<ChildProcess> {
    const child = spawn(process.execPath, [MAIN, 'serve'], { env: environment(), stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    await new Promise<void>((resolve, reject) => {
      child.stderr.on('data', (chunk) => {
        said += String(chunk)
        if (said.includes('is ready at')) resolve()
      })
      child.once('exit', () => reject(new Error(said)))
    })
    return child
  }

  const stopServing = (child: ChildProcess) =>
    new Promise<number | null>((resolve) => {
      child.once('exit', resolve)
      child.kill('SIGTERM')
    })

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'latchkey-cli-'))
    port = await freePort()
    server = await startServing()
  })
  afterAll(async () => {
    if (server?.exitCode === null) await stopServing(server)
    rmSync(directory, { recursive: true, force: true })
  })

  it('says which option is wrong where a number is none', async () => {
    const refused = await latchkey(['review', 'open', '--workspace', 'ws_x', '--due-in-days', 'abc'])
    expect([refused.code, refused.stdout]).toEqual([1, ''])
    expect(refused.stderr).toContain('--due-in-days takes a whole number of days')
  })

  it('works while the server runs, through a socket that only its owner can open', async () => {
    const created = await latchkey(
      ['user', 'create', '--email', 'bob@example.com', '--name', 'Bob', '--password-stdin', '--json'],
      'a long enough password\n',
    )
    expect(created).toMatchObject({ code: 0, stderr: '' })
    expect(JSON.parse(created.stdout)).toMatchObject({ email: 'bob@example.com', id: expect.stringMatching(/^usr_/) })
    expect(statSync(controlPath(directory)).mode & 0o777).toBe(0o600)
  })

  it('says what is wrong in a sentence, and ends with 1', async () => {
    const bad = await latchkey(['client', 'create', '--name', 'x', '--redirect-uri', 'http://evil.example/cb'])
    expect(bad).toMatchObject({ code: 1, stdout: '' })
    expect(bad.stderr).toContain('must be https, or http on 127.0.0.1')
    expect(bad.stderr).not.toContain('    at ')
  })

  it('shows a client without its secret, which was printed once', async () => {
    const { client_id, client_secret } = JSON.parse(
      (await latchkey(['client', 'create', '--name', 'Once', '--redirect-uri', 'https://a.example/cb', '--json']))
        .stdout,
    )
    expect(client_secret).toMatch(/^[\w-]{43}$/)
    for (const args of [
      ['client', 'show', client_id, '--json'],
      ['client', 'list', '--json'],
      ['client', 'show', client_id],
    ]) {
      const shown = await latchkey(args)
      expect(shown.stdout).toContain(client_id)
      expect(shown.stdout).not.toContain(client_secret)
    }
    expect(JSON.parse((await latchkey(['client', 'delete', client_id, '--json'])).stdout)).toEqual({
      client_id,
      deleted: true,
    })
    expect((await latchkey(['client', 'show', client_id])).code).toBe(1)
  })

  it('every command has --help', async () => {
    const commands = [
      [],
      ['serve'],
      ['migrate'],
      ['user', 'create'],
      ['organization', 'create'],
      ['workspace', 'create'],
      ['member', 'add'],
      ['client', 'create'],
      ['client', 'grant'],
      ['resource', 'create'],
    ]
    const helps = await Promise.all(commands.map((command) => latchkey([...command, '--help'])))
    for (const help of helps)
      expect(help).toMatchObject({ code: 0, stdout: expect.stringContaining('Usage: latchkey') })
  })

  it('a second server on the same directory is refused while the first one runs', async () => {
    const second = await latchkey(['serve'])
    expect(second.code).toBe(1)
    expect(second.stderr).toContain('Another process is using')
  })

  it('exports the log into a file that it verifies offline, and ends with 1 where the file was changed', async () => {
    const [organization] = JSON.parse((await latchkey(['organization', 'list', '--json'])).stdout)
    const files = mkdtempSync(join(tmpdir(), 'latchkey-files-'))
    const [log, keys, changed] = ['log.ndjson', 'keys.json', 'changed.ndjson'].map((name) => join(files, name))
    if (log === undefined || keys === undefined || changed === undefined) throw new Error('three names are three files')
    const exported = await latchkey(['audit', 'export', '--organization', organization.id, '--to', log])
    expect(exported.code, exported.stderr).toBe(0)
    writeFileSync(keys, (await latchkey(['audit', 'keys', '--json'])).stdout)
    writeFileSync(changed, readFileSync(log, 'utf8').replace('"status":"pass"', '"status":"fail"'))
    const verify = (file: string) => latchkey(['audit', 'verify', '--file', file, '--keys', keys, '--json'])
    const good = await verify(log)
    expect([good.code, JSON.parse(good.stdout)]).toMatchObject([0, { ok: true, signature: 'good', complete: true }])
    const bad = await verify(changed)
    expect([bad.code, JSON.parse(bad.stdout)]).toMatchObject([1, { ok: false, fault: { kind: 'record_changed' } }])
    const missing = await latchkey(['audit', 'verify', '--file', join(files, 'none'), '--keys', keys])
    expect([missing.code === 0, missing.stderr]).toEqual([false, expect.stringContaining('cannot be read')])
    const keyless = await latchkey(['audit', 'verify', '--file', log])
    expect([keyless.code, keyless.stdout, keyless.stderr]).toEqual([1, '', expect.stringContaining('Give --keys')])
    const unchecked = await latchkey(['audit', 'verify', '--file', log, '--without-keys', '--json'])
    expect([unchecked.code, JSON.parse(unchecked.stdout)]).toMatchObject([0, { ok: true, signature: 'unchecked' }])
    expect(JSON.parse(unchecked.stdout).notes.join()).toContain('was not checked')
    const both = await latchkey(['audit', 'verify', '--file', log, '--without-keys', '--keys', keys])
    expect(both.code).toBe(1)
    const nowhere = await latchkey(['audit', 'export', '--organization', 'org_none', '--to', join(files, 'x')])
    expect([nowhere.code === 0, nowhere.stderr]).toEqual([false, expect.stringContaining('There is no organization')])
    const year = ['--since', '0000-01-01T00:00:00Z', '--to', join(files, 'y')]
    const early = await latchkey(['audit', 'export', '--organization', organization.id, ...year])
    expect([early.code, early.stderr]).toEqual([1, expect.stringContaining('must be in the years 1 to 9999')])
  })

  it('verifies the report of a review offline, and ends with 1 where it says what was not signed', async () => {
    const files = mkdtempSync(join(tmpdir(), 'latchkey-files-'))
    const [report, keys] = ['report.json', 'keys.json'].map((name) => join(files, name))
    if (report === undefined || keys === undefined) throw new Error('two names are two files')
    const signer = createSinkSigner([Buffer.alloc(32, 7)])
    writeFileSync(keys, JSON.stringify({ keys: signer.publicKeys() }))
    const signed = { report_version: 1, review_id: 'rev_1', closed_at: '2026-05-21T08:00:00Z', items: [] }
    const jws = await signer.signDocument('latchkey-access-review', signed)
    const verify = (...how: string[]) => latchkey(['audit', 'verify', '--file', report, '--json', ...how])
    for (const [told, code] of [
      [signed, 0],
      [{ ...signed, items: ['more'] }, 1],
    ] as const) {
      writeFileSync(report, JSON.stringify({ report: told, jws }, null, 2))
      const verified = await verify('--keys', keys)
      expect([verified.code, JSON.parse(verified.stdout)]).toMatchObject([code, { ok: code === 0, review: 'rev_1' }])
    }
    expect((await verify()).stderr).toContain('Give --keys')
  })

  it('works without a server too, after a clean stop', async () => {
    if (server !== undefined) expect(await stopServing(server)).toBe(0)
    const listed = await latchkey(['client', 'list', '--json'])
    expect(listed.code).toBe(0)
    expect(JSON.parse(listed.stdout).map((client: { client_name: string }) => client.client_name)).toEqual(['Tracepad'])
  })
})
