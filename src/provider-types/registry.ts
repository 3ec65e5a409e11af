// The providers there are. One more is one more file, and one more line here.
import { anthropic } from './anthropic.ts'
import { openai } from './openai.ts'
import type { ProviderType } from './rules.ts'

export const PROVIDER_TYPES: readonly ProviderType[] = [anthropic, openai]

export function findProviderType(type: string): ProviderType | undefined {
  return PROVIDER_TYPES.find((known) => known.type === type)
}
