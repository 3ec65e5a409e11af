// A file that somebody was given, whatever of ours it is: verified with nothing but public keys.
import { isUtf8 } from 'node:buffer'
import { open, readFile } from 'node:fs/promises'
import type { JWK } from 'jose'
import { verifyFile } from '../audit/file-verification.ts'
import { AppError } from '../errors.ts'
import { verifyReport } from '../reviews/service.ts'

/**
 * @param keys none: signatures are left unchecked, and said so
 * @param onProgress hears how many records were looked at
 * @throws {AppError} `invalid_request` for a file that cannot be read
 */
export async function verifyGiven(
  path: string,
  keys: readonly JWK[],
  onProgress: (records: number) => void,
): Promise<unknown> {
  if (!isReport(await beginning(path))) return verifyFile(path, { keys, onProgress })
  const bytes = await readFile(path)
  return { file: path, ...(await verifyReport(isUtf8(bytes) ? bytes.toString('utf8') : '', keys)) }
}

/** A file of the audit log, of any size, begins in another way. */
const isReport = (text: string): boolean => /^\s*\{\s*"(report|jws)"/.test(text)

async function beginning(path: string): Promise<string> {
  const file = await open(path, 'r').catch((error: unknown) => {
    throw new AppError('invalid_request', { detail: `${path} cannot be read.`, cause: error })
  })
  try {
    const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(256) })
    return buffer.toString('utf8', 0, bytesRead)
  } finally {
    await file.close()
  }
}
