// Transactions of one workspace take turns before they take a connection: all of them want the row of its month, and whoever
// waits for that in the database holds a connection that other workspaces need.
import { AppError } from '../errors.ts'
import type { WorkspaceId } from '../ids.ts'
import type { Db } from '../store/database.ts'

/** Of one workspace and process: one has the row, the others are on their way to it. */
export const AT_ONCE = 4
/** Waiting here costs no connection: a burst is better served late than refused. */
const LONGEST_WAIT_MS = 10_000

interface Line {
  running: number
  /** First come, first served. */
  waiting: Set<() => void>
}

const linesOf = new WeakMap<Db, Map<WorkspaceId, Line>>()

/**
 * Does the work when it is the workspace's turn.
 *
 * @param options.patient waits as long as it takes
 * @throws {AppError} `unavailable` after ten seconds
 */
export async function inTurn<T>(
  db: Db,
  workspaceId: WorkspaceId,
  work: () => Promise<T>,
  { patient = false }: { patient?: boolean } = {},
): Promise<T> {
  const lines = linesOf.get(db) ?? new Map<WorkspaceId, Line>()
  linesOf.set(db, lines)
  const line = lines.get(workspaceId) ?? { running: 0, waiting: new Set() }
  lines.set(workspaceId, line)
  if (line.running < AT_ONCE) line.running += 1
  else await queue(line, patient)
  try {
    return await work()
  } finally {
    const [next] = line.waiting
    if (next !== undefined) next()
    else line.running -= 1
    if (line.running === 0) lines.delete(workspaceId)
  }
}

/** Until somebody hands their place on. */
function queue({ waiting }: Line, patient: boolean): Promise<void> {
  return new Promise((resolve, reject) => {
    const giveUp = () => {
      waiting.delete(go)
      reject(new AppError('unavailable', { cause: new Error('too much at once in one workspace') }))
    }
    const timer = patient ? undefined : setTimeout(giveUp, LONGEST_WAIT_MS)
    const go = () => {
      clearTimeout(timer)
      waiting.delete(go)
      resolve()
    }
    waiting.add(go)
  })
}
