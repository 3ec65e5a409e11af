// What must be recorded is tried again behind the answer, and what never was is said.
import { expect, it } from 'vitest'
import { insist } from '../../src/proxy/insisting.ts'

async function trying(failures: number): Promise<{ tries: number; before: number; givenUp: string[] }> {
  const behind: Array<Promise<void>> = []
  const givenUp: string[] = []
  let tries = 0
  const how = {
    soon: (work: Promise<void>) => void behind.push(work),
    onGivenUp: (error: Error) => void givenUp.push(error.message),
    pausesMs: [1, 1],
  }
  await insist(how, async () => {
    tries += 1
    if (tries <= failures) throw new Error(`away ${tries}`)
  })
  const before = tries
  await Promise.all(behind)
  return { tries, before, givenUp }
}

it.each([
  [0, { tries: 1, before: 1, givenUp: [] }],
  [2, { tries: 3, before: 1, givenUp: [] }],
  [3, { tries: 3, before: 1, givenUp: ['away 3'] }],
])('work that fails %i times is tried again behind whoever waits, and given up once', async (failures, came) => {
  expect(await trying(failures)).toEqual(came)
})
