import { join } from 'node:path'
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

// Every test file is a process, and many start others: what one has compiled the next need not.
process.env.NODE_COMPILE_CACHE ??= join(import.meta.dirname, 'node_modules/.cache/compiled')

/** What takes longest goes first: begun last, it would run alone. */
const LONG = ['browser', 'restores', 'oauth', 'jobs', 'concurrency', 'faults', 'archives', 'cli']

class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const found = LONG.findIndex((room) => moduleId.includes(`/test/${room}/`))
      return found < 0 ? LONG.length : found
    }
    return (await super.sort(files)).sort((one, other) => place(one) - place(other))
  }
}

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/soak/**', '**/node_modules/**'],
    pool: 'forks',
    maxWorkers: 2,
    isolate: false, // a third of the time went into importing the same modules again
    sequence: { sequencer: LongFirst },
    setupFiles: ['test/support/setup.ts'],
    testTimeout: 60_000,
    hookTimeout: 90_000,
    globalSetup: ['test/support/global-setup.ts'],
  },
})
