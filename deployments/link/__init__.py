"""Direct connections between the processes of a deployment: one for each pair, shared by all calls between the two."""
