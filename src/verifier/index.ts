// `latchkey/verifier`: for the APIs that take our tokens.
export type { Access, Environment } from './access.ts'
export { expressVerifier, fetchVerifier, koaVerifier } from './adapters.ts'
export { VerifierError, type VerifierErrorCode } from './errors.ts'
export { createVerifier, type Verifier, type VerifierOptions, type VerifyOptions } from './verifier.ts'
