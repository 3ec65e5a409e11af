// The command line as an operator runs it: other processes, beside a running server and without one.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ROOT } from '../../src/app.ts'
import { controlPath } from '../../src/cli/control.ts'
import { freePort } from '../support/server.ts'

const MAIN = join(ROOT, 'src/main.ts')

describe('the command line in the embedded default', () => {
  let directory: string
  let port: number
  let server: ChildProcess | undefined

  const environment = () => ({
    PATH: process.env.PATH,
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

  it('works without a server too, after a clean stop', async () => {
    if (server !== undefined) expect(await stopServing(server)).toBe(0)
    const listed = await latchkey(['client', 'list', '--json'])
    expect(listed.code).toBe(0)
    expect(JSON.parse(listed.stdout).map((client: { client_name: string }) => client.client_name)).toEqual(['Tracepad'])
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
    const missing = await latchkey(['audit', 'verify', '--file', join(files, 'none')])
    expect([missing.code === 0, missing.stderr]).toEqual([false, expect.stringContaining('cannot be read')])
    const nowhere = await latchkey(['audit', 'export', '--organization', 'org_none', '--to', join(files, 'x')])
    expect([nowhere.code === 0, nowhere.stderr]).toEqual([false, expect.stringContaining('There is no organization')])
  })
})
