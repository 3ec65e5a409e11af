// Before each test file. Files share their processes, and with them what modules keep: nothing may be left to the next file.
import { afterAll, afterEach, expect } from 'vitest'
import { takeBreaches } from './log-watch.ts'

const NOTHING = 'logs hold no identifier that does not belong there'
afterEach(() => expect(takeBreaches(), NOTHING).toEqual([]))
afterAll(() => expect(takeBreaches(), NOTHING).toEqual([]))
