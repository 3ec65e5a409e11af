// The long forms: hours of races and kills in minutes. One file at a time, so that each has the machine for itself; the
// faults come along, because only here their times are held to the letter.
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/soak/**/*.test.ts', 'test/faults/**/*.test.ts'],
    env: { TEST_TIMES: 'strict' },
    pool: 'forks',
    maxWorkers: 1,
    testTimeout: 30 * 60_000,
    hookTimeout: 120_000,
    setupFiles: ['test/support/setup.ts'],
    globalSetup: ['test/support/global-setup.ts'],
  },
})
