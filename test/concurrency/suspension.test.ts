// Credentials that are suspended while two processes decide about them: with the answer nothing of them is accepted anywhere,
// and what waited works again with the answer of the restoration.
import { decodeJwt } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type ConnectionScene,
  connect,
  expectDead,
  startConnectionScene,
  waysOfJwt,
} from '../support/connection-races.ts'
import { hasStores } from '../support/databases.ts'
import { failuresOf, patiently, refreshAt } from '../support/processes.ts'
import { at } from '../support/races.ts'
import { takeTime } from '../support/times.ts'
import { call, exchangeAt, outcomes, soon, waysOf } from '../support/token-races.ts'

takeTime()

const ROUNDS = 6

describe.skipIf(!hasStores())('suspension on two processes', () => {
  let scene: ConnectionScene
  beforeAll(async () => {
    scene = await startConnectionScene()
  })
  afterAll(() => scene?.close())

  const ask = async (round: number, path: string, what: 'suspend' | 'restore') => {
    const { processes, tokens } = scene.world
    const base = `/api/v1/workspaces/${tokens.world.workspaceId}`
    const answer = await patiently(() =>
      call(at(processes, round % 2), 'POST', `${base}/${path}/${what}`, tokens.key.value, {}),
    )
    expect(answer.status, answer.text).toBe(200)
  }

  it('a refresh that meets the suspension: no JWT is accepted anywhere, and the chain goes on once it is restored', async () => {
    const { world } = scene
    const { client } = world.person
    for (let round = 0; round < ROUNDS; round++) {
      const here = at(world.processes, round % 2)
      const audience = at(['api', 'own'] as const, (round >> 1) % 2)
      const { connectionId, jwt, refreshToken } = await connect(world, audience, here)
      const suspending = soon().then(() => ask(round >> 1, `connections/${connectionId}`, 'suspend'))
      await soon()
      const refreshed = await refreshAt(here, client, refreshToken)
      await suspending
      expect([200, 400, 503]).toContain(refreshed.status)
      await expectDead(world, audience, jwt)
      if (refreshed.body.access_token !== undefined) await expectDead(world, audience, refreshed.body.access_token)
      const waiting = refreshed.body.refresh_token ?? refreshToken
      for (const process of world.processes)
        expect(await patiently(() => refreshAt(process, client, waiting))).toMatchObject({
          status: 400,
          body: { error: 'invalid_grant' },
        })
      await ask(round, `connections/${connectionId}`, 'restore')
      const again = await patiently(() => refreshAt(here, client, waiting))
      expect(again.status, JSON.stringify(again.body)).toBe(200)
      const next = again.body.access_token ?? ''
      expect(decodeJwt(next).token_version).not.toBe(decodeJwt(jwt).token_version)
      const { 'JWT, verifier': _, ...now } = waysOfJwt(world, audience, next)
      expect(await outcomes(world.processes, now)).toEqual(['accepted'])
      await expectDead(world, audience, jwt)
    }
  })

  it('exchanges that meet the suspension: neither the value nor a JWT is accepted, and the value is again once restored', async () => {
    const { world } = scene
    const { tokens, processes } = world
    for (let round = 0; round < ROUNDS; round++) {
      const token = await tokens.create()
      expect((await exchangeAt(at(processes, round % 2), token.value)).status).toBe(200) // from memory from here on
      const suspending = soon().then(() => ask(round, `api-keys/${token.id}`, 'suspend'))
      const issued = await Promise.all(
        Array.from({ length: 6 }, async (_, index) => {
          await soon()
          return exchangeAt(at(processes, index % 2), token.value)
        }),
      )
      await suspending
      for (const { status, jwt } of issued) {
        expect([200, 400]).toContain(status)
        if (jwt !== undefined) expect(await outcomes(processes, waysOf(tokens, { own: jwt }))).toEqual(['refused'])
      }
      expect(await outcomes(processes, waysOf(tokens, { value: token.value }))).toEqual(['refused'])
      await ask(round >> 1, `api-keys/${token.id}`, 'restore')
      expect(await outcomes(processes, waysOf(tokens, { value: token.value }))).toEqual(['accepted'])
    }
  })

  it('no race was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(scene.world.cluster)).toEqual([])
  })
})
