// The verifier in a process of its own: it holds nothing open that nobody needs.
import { spawn } from 'node:child_process'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { AUDIENCE, type ScriptedIssuer, startIssuer } from './issuer.ts'

let issuer: ScriptedIssuer
beforeAll(async () => {
  issuer = await startIssuer()
})
afterAll(() => issuer?.close())

const VERIFIER = new URL('../../src/verifier/index.ts', import.meta.url).href

/** Runs a program, and answers what it printed once it has ended by itself. */
function run(program: string): Promise<{ code: number | null; output: string }> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.on('data', (data) => (output += data))
  child.stderr.on('data', (data) => (output += data))
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, output })))
}

const options = () =>
  JSON.stringify({
    issuer: issuer.origin,
    audience: AUDIENCE,
    environment: 'production',
    clientId: 'a',
    clientSecret: 'b',
  })

it('a program that only imports it ends', async () => {
  expect(await run(`import ${JSON.stringify(VERIFIER)}; console.log('done')`)).toEqual({ code: 0, output: 'done\n' })
})

it('a program that waits for an issuer that is away stays alive until it is back', async () => {
  let refused = 0
  issuer.onFeed = (_request, response) => {
    if (++refused === 3) issuer.onFeed = undefined
    response.destroy()
  }
  const { code, output } = await run(`
    import { createVerifier } from ${JSON.stringify(VERIFIER)}
    const verify = createVerifier(${options()})
    await verify.ready()
    console.log('ready')
    await verify.close()`)
  expect({ code, output }).toEqual({ code: 0, output: 'ready\n' })
})

it('a program that closes it ends: no timer and no connection is left', async () => {
  const jwt = await issuer.jwt()
  const { code, output } = await run(`
    import { createVerifier } from ${JSON.stringify(VERIFIER)}
    const verify = createVerifier(${options()})
    await verify.ready()
    const access = await verify('Bearer ${jwt}')
    await verify.close()
    const left = process.getActiveResourcesInfo().filter((name) => name === 'Timeout')
    console.log(access.workspaceId, left.length)`)
  expect({ code, output }).toEqual({ code: 0, output: 'ws_1 0\n' })
})

it('closing it before it has reached anybody ends it, too, and whoever waits for it is told', async () => {
  const { code, output } = await run(`
    import { createVerifier } from ${JSON.stringify(VERIFIER)}
    const options = { ...${options()}, issuer: 'http://127.0.0.1:1' }
    const silent = createVerifier(options)
    const verify = createVerifier(options)
    const ready = verify.ready()
    setTimeout(async () => {
      await Promise.all([silent.close(), verify.close()])
      console.log(await ready.catch((error) => error.message))
    }, 300)`)
  expect({ code, output }).toEqual({ code: 0, output: 'the verifier was closed before it was ready\n' })
})
