// What each member of an access token means, for a newcomer (RFC 7519 §4.1, RFC 9068 §2), in the order to be read.
export const MEANINGS: Record<string, string> = {
  typ: 'It is an access token, and not to be taken for any other kind of JWT.',
  alg: 'How it is signed: with an elliptic curve key, whose public half anyone may fetch.',
  kid: 'Which of the published keys signed it.',
  sub: 'Who it acts for: you.',
  client_id: 'Which app it was given to.',
  workspace_id: 'The workspace you chose. It works in no other.',
  organization_id: 'The organization that the workspace belongs to.',
  scope: 'What it allows, as you approved it.',
  aud: 'Which API it is for. Any other must refuse it.',
  iss: 'Who made it: this server.',
  environment: 'Production, staging or development. An API takes only its own.',
  iat: 'When it was made.',
  exp: 'When it stops working by itself.',
  jti: 'Its own id. No other token has it.',
  credential_id: 'The connection behind it: what you end when you disconnect.',
  token_version: 'The generation of the connection. Raising it ends every older token.',
}
