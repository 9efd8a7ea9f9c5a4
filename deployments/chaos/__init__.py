"""Chaos: faults in a cluster of scripted engines while streams run whose texts are known.

`plan` says when what happens to whom, `faults` does it, `texts` knows what each stream must say, `streams` asks,
`leftovers` looks for what should be gone, `run` puts it together, `report` says which promises were kept.
"""
