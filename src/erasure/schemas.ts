// What an erasure would come to, as a command prints it: ids, and no name of a person.
import type { ErasurePreview } from './service.ts'

export function presentErasure(preview: ErasurePreview) {
  return {
    id: preview.id,
    possible: preview.lastOwnerOf.length === 0,
    last_owner_of: preview.lastOwnerOf.map(({ id }) => id),
    leaves: preview.organizations.map(({ id }) => id),
    ends: preview.connections.map(({ id }) => id),
    rotates: preview.tokens.map(({ id }) => id),
    cancels: preview.invitations,
  }
}
