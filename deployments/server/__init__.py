"""A server as those see it who start it, ask it and end it: commands, benchmarks and chaos runs."""
