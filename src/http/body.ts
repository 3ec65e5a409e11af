// Request bodies, read with a limit.
import type { Context } from 'koa'
import { AppError } from '../errors.ts'

/** The whole body. The connection stays usable when it is too long. @throws {AppError} `payload_too_large` */
export async function readBody(ctx: Context, mostBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let sizeBytes = 0
  for await (const chunk of ctx.req.iterator({ destroyOnReturn: false })) {
    sizeBytes += chunk.length
    if (sizeBytes > mostBytes) throw new AppError('payload_too_large')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}
