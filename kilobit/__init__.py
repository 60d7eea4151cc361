"""kilobit: the shortest program that makes a frozen language model reach a target score.

`kilobit.launch.main` runs any command of the command line, with its words in a list, and returns
its exit status. The packages are `kilobit.search` (what is tried and how long it is),
`kilobit.evaluators` (how one program is run, scored and proven) and `kilobit.cluster` (where, and
for how long).
"""
