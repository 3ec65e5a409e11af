// Whose turn it is in a workspace: few at once, in the order in which they came, and no other workspace waits.
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import type { WorkspaceId } from '../../src/ids.ts'
import type { Db } from '../../src/store/database.ts'
import { AT_ONCE, inTurn } from '../../src/usage/turns.ts'

const [BUSY, OTHER] = ['ws_busy' as WorkspaceId, 'ws_other' as WorkspaceId]
let db: Db
let begun: string[]
beforeEach(() => {
  vi.useFakeTimers()
  db = {} as Db // lines are kept by it, and nothing else is done with it
  begun = []
})
afterEach(() => vi.useRealTimers())

function take(name: string, workspaceId = BUSY, options = {}) {
  const work = Promise.withResolvers<string>()
  const done = inTurn(
    db,
    workspaceId,
    () => {
      begun.push(name)
      return work.promise
    },
    options,
  )
  done.catch(() => {}) // looked at later
  return { done, end: () => work.resolve(name), fail: () => work.reject(new Error(name)) }
}
const settle = () => vi.advanceTimersByTimeAsync(0)
const names = (count: number, from = 0) => Array.from({ length: count }, (_, place) => `${place + from}`)

it('few run at once, the others follow in their order, also after one that failed', async () => {
  const taken = names(AT_ONCE + 3).map((name) => take(name))
  await settle()
  expect(begun).toEqual(names(AT_ONCE))
  taken[1]?.fail()
  await expect(taken[1]?.done).rejects.toThrow('1')
  taken[0]?.end()
  await settle()
  expect(begun).toEqual(names(AT_ONCE + 2))
  for (const { end } of taken) end()
  await settle()
  expect(begun).toEqual(names(AT_ONCE + 3))
  take('later')
  await settle()
  expect(begun.at(-1)).toBe('later')
})

it('another workspace does not wait for it', async () => {
  for (const name of names(AT_ONCE + 1)) take(name)
  take('other', OTHER)
  await settle()
  expect(begun).toContain('other')
})

it('nobody waits longer than ten seconds, but who has patience', async () => {
  const running = names(AT_ONCE).map((name) => take(name))
  const hasty = take('hasty')
  const patient = take('patient', BUSY, { patient: true })
  await vi.advanceTimersByTimeAsync(10_000)
  await expect(hasty.done).rejects.toMatchObject({ code: 'unavailable', retryAfterSeconds: 1 })
  await vi.advanceTimersByTimeAsync(60_000)
  for (const { end } of running) end()
  patient.end()
  expect(await patient.done).toBe('patient')
  expect(begun).not.toContain('hasty')
})
