// `npm run bench`: installs what the peers need, if it is not there yet, and starts the session. See README.md.
import { spawnSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { HELP, type Options, parseOptions, UsageError } from './options.ts'

const directory = dirname(fileURLToPath(import.meta.url))

function changedAt(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0
}

/** The peers have a package of their own, so that the server's dependencies stay the server's. */
function installPeers(): void {
  const installed = changedAt(join(directory, 'node_modules', '.package-lock.json'))
  if (installed >= changedAt(join(directory, 'package-lock.json'))) return
  process.stderr.write('Installing what the benchmark needs (once) ...\n')
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
  const { status } = spawnSync(npm, ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], {
    cwd: directory,
    stdio: ['ignore', 2, 2],
    shell: process.platform === 'win32',
  })
  if (status !== 0) throw new UsageError('"npm ci --ignore-scripts" failed in bench/: read what it says above')
}

async function main(options: Options): Promise<number> {
  if (options.verifier) {
    const { runVerifier } = await import('./verifier.ts') // no peer takes part
    return runVerifier(options, directory)
  }
  if (options.rates) {
    const { runRates } = await import('./rates.ts') // nor here
    return runRates(options, directory)
  }
  installPeers()
  // Only now: these import packages that have just been installed.
  if (options.growth) {
    const { runGrowth } = await import('./growth.ts')
    return runGrowth(options, directory)
  }
  const { runSession } = await import('./session.ts')
  return runSession(options, directory)
}

try {
  const options = parseOptions(process.argv.slice(2))
  if (options) process.exitCode = await main(options)
  else process.stdout.write(HELP)
} catch (error) {
  if (!(error instanceof UsageError)) throw error
  process.stderr.write(`${error.message}\n`)
  process.exitCode = 2
}
