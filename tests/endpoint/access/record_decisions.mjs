// Records what @cloud-copilot/iam-simulate decides on the cases of cases.py, for test_policies.py to compare with.
//
// In an empty folder:
//   npm install @cloud-copilot/iam-simulate@0.1.173
//   cp …/tests/endpoint/access/record_decisions.mjs .
// and at the root of the checkout:
//   python -m tests.endpoint.access.cases | node FOLDER/record_decisions.mjs > tests/endpoint/access/decisions.json
import { readFileSync } from 'node:fs'
import { runSimulation } from '@cloud-copilot/iam-simulate'

const cases = JSON.parse(readFileSync(0, 'utf8'))
const named = (policy, name) => (policy ? [{ name, policy }] : [])
const everything = { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: '*', Resource: '*' }] }
const decisions = {}
const errors = []
for (const each of cases) {
  const outcome = await runSimulation(
    {
      request: {
        principal: each.principal,
        action: each.action,
        resource: { resource: each.resource, accountId: '123456789012' },
        contextVariables: each.context
      },
      sessionPolicy: each.session,
      identityPolicies: each.identity.map((policy, index) => ({ name: `identity${index}`, policy })),
      serviceControlPolicies: [
        { orgIdentifier: 'root', policies: [{ name: 'everything', policy: everything }] }
      ],
      resourceControlPolicies: [],
      resourcePolicy: each.resource_policy,
      permissionBoundaryPolicies: each.boundary ? named(each.boundary, 'boundary') : undefined
    },
    {}
  )
  if (outcome.resultType === 'error') {
    errors.push(`${JSON.stringify(each)}: ${JSON.stringify(outcome.errors)}`)
    continue
  }
  const result = outcome.resultType === 'single' ? outcome.result : outcome.results[0]
  if (result?.ignoredContextKeys?.length > 0) {
    errors.push(`${JSON.stringify(each)}: context keys were ignored: ${result.ignoredContextKeys}`)
    continue
  }
  decisions[each.id] = outcome.overallResult
}
if (errors.length > 0) {
  console.error(errors.join('\n'))
  process.exit(1)
}
const lines = Object.entries(decisions).map(([id, decision]) => `${JSON.stringify(id)}: ${JSON.stringify(decision)}`)
process.stdout.write(`{\n${lines.join(',\n')}\n}\n`)
