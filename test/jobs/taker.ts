// A process of its own that takes one job and never finishes it: to be killed.
import { createJobs } from '../../src/jobs/service.ts'
import { openPostgres } from '../../src/store/database.ts'
import { QUICK } from './pace.ts'

const opened = openPostgres(process.argv[2] ?? '', 1, () => {})
const jobs = createJobs({
  source: opened.source,
  isHeldBack: () => false,
  onError: (error) => void process.stderr.write(`${error.message}\n`),
  pace: QUICK,
})
jobs.define('export', {
  patience: 'short',
  run: () => {
    process.stdout.write('taken\n')
    return new Promise(() => {})
  },
})
jobs.start()
