// Times on the wire: RFC 3339, UTC, whole seconds; what they say is the database's.

export function rfc3339(time: Date): string {
  return time.toISOString().replace(/\.\d{3}Z$/, 'Z')
}

export function rfc3339OrNull(time: Date | null): string | null {
  return time === null ? null : rfc3339(time)
}
