// A process killed (SIGKILL) between any two steps of a request: its client tries again at another one, and is well.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import {
  endThroughKill,
  type KillPoint,
  type KillScene,
  redeemThroughKill,
  refreshThroughKills,
  startKillScene,
} from '../support/kills.ts'
import { refreshAt } from '../support/processes.ts'
import { connectAt, endGrace, OPAQUE } from '../support/races.ts'
import { takeTime } from '../support/times.ts'

takeTime()

const ROTATION = 'update refresh_tokens set consumed_at'
const REPEAT = 'for update) select exists'
const REDEMPTION = 'insert into consumed_codes'

const REFRESH: KillPoint[] = [
  { between: 'postgres', on: 'from refresh_tokens t', at: 'asked' },
  { between: 'postgres', on: 'from refresh_tokens t', at: 'done' },
  { between: 'postgres', on: ROTATION, at: 'asked' },
  { between: 'postgres', on: ROTATION, at: 'done' },
  { between: 'postgres', on: ROTATION, at: 'answered' },
  { between: 'client', on: 'post /token', at: 'done' },
]
const REFRESH_OPAQUE: KillPoint[] = [
  { between: 'redis', on: 'entry:accesstoken', at: 'asked' },
  { between: 'redis', on: 'entry:accesstoken', at: 'done' },
]
const ENDING = 'update "families" set "ended_at"'
const REUSE: KillPoint[] = [
  { between: 'postgres', on: ENDING, at: 'done' },
  { between: 'postgres', on: 'insert into revocation_entries', within: ENDING, at: 'asked' },
  { between: 'postgres', on: 'commit', within: ENDING, at: 'asked' },
  { between: 'postgres', on: 'commit', within: ENDING, at: 'done' },
]
const REDEEM: KillPoint[] = [
  { between: 'redis', on: 'entry:authorizationcode', at: 'done' },
  { between: 'postgres', on: REDEMPTION, at: 'asked' },
  { between: 'postgres', on: REDEMPTION, at: 'done' },
  { between: 'client', on: 'post /token', at: 'done' },
]
const REDEEM_OPAQUE: KillPoint[] = [
  { between: 'redis', on: 'entry:accesstoken', at: 'asked' },
  { between: 'redis', on: 'entry:accesstoken', at: 'done' },
]

const name = ({ between, on, at }: KillPoint) => `${between}, "${on}" ${at}`

describe.skipIf(!hasStores())('a process killed', () => {
  let scene: KillScene
  beforeAll(async () => {
    scene = await startKillScene()
  })
  afterAll(() => scene?.close())

  it(`in a refresh, at each of ${REFRESH.length} points: the client repeats it and gets the one successor`, () =>
    refreshThroughKills(scene, REFRESH))

  it('in a refresh for an opaque token, before and after Redis has it: the same', async () => {
    const { cluster, world, agent } = scene
    const { access_token, refresh_token } = await connectAt(cluster, world, { agent, more: OPAQUE })
    expect(access_token).toMatch(/^lk_at_/)
    await refreshThroughKills(scene, REFRESH_OPAQUE, refresh_token)
  })

  it('in a repeat, which inserts nothing: the same', async () => {
    const { cluster, world, agent, survivor } = scene
    const { refresh_token } = await connectAt(cluster, world, { agent })
    const first = await refreshAt(survivor, world.client, refresh_token)
    expect(first.status).toBe(200)
    const point: KillPoint = { between: 'postgres', on: 'commit', within: REPEAT, at: 'asked' }
    await refreshThroughKills(scene, [point], refresh_token)
    expect(await refreshAt(survivor, world.client, first.body.refresh_token)).toMatchObject({ status: 200 })
  })

  it.each(REUSE.map((point) => [name(point), point] as const))(
    'while it ends a family for reuse (%s): the next try finds it ended, or ends it',
    (_, point) => endThroughKill(scene, point, (token) => endGrace(scene.cluster.server, token)),
  )

  it.each(REDEEM.map((point) => [name(point), point] as const))(
    'in a code exchange (%s): one redirect later the client is connected, and the code left no second family',
    (_, point) => redeemThroughKill(scene, point),
  )

  it.each(REDEEM_OPAQUE.map((point) => [name(point), point] as const))(
    'in a code exchange for an opaque token (%s): the same',
    (_, point) => redeemThroughKill(scene, point, true),
  )
})
