// What people know those by who made or decided something: a person by their name, a key or token by its label, an app by
// its own name. The same on every page.
import { namesOfSubjects } from '../evidence/service.ts'
import { isUserId, type OrganizationId } from '../ids.ts'
import { namesOf } from '../members/service.ts'
import type { Db } from '../store/database.ts'

/** By id; of whoever is no longer there, or has none, nothing. Two statements, however many there are. */
export async function namesOfMakers(
  db: Db,
  organizationId: OrganizationId,
  ids: ReadonlyArray<string | null>,
): Promise<Map<string, string>> {
  const others = ids.filter((id) => id !== null && !isUserId(id))
  const [people, subjects] = await Promise.all([
    namesOf(db, organizationId, ids),
    namesOfSubjects(db, organizationId, others),
  ])
  return new Map([...subjects, ...people])
}
