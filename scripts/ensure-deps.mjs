// Installs the locked dependencies when they are missing or older than the lock file. Plain JavaScript for any Node:
// it runs before the Node that the project brings along is there.
import { spawnSync } from 'node:child_process'
import { statSync } from 'node:fs'

const changedAt = (path) => {
  try {
    return statSync(path).mtimeMs
  } catch {
    return 0
  }
}

if (changedAt('node_modules/.package-lock.json') < changedAt('package-lock.json')) {
  process.stderr.write('Installing dependencies (once, about half a minute) ...\n')
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
  const { status } = spawnSync(npm, ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], {
    stdio: ['ignore', 2, 2],
    shell: process.platform === 'win32',
  })
  if (status !== 0) {
    process.stderr.write(
      'The dependencies could not be installed: run "npm ci --ignore-scripts" and read what it says.\n',
    )
    process.exit(1)
  }
}

// Asked again in a new process: npm puts node_modules/.bin first, so "node" may only now be the one that was installed.
const found = spawnSync('node', ['--version'], { encoding: 'utf8', shell: process.platform === 'win32' })
const version = found.stdout?.trim() ?? ''
if (Number(version.slice(1).split('.')[0]) < 24) {
  process.stderr.write(
    `Latchkey needs Node 24 or later, and this is ${version || 'unknown'}. Install Node 24, then run the command again.\n`,
  )
  process.exit(1)
}
