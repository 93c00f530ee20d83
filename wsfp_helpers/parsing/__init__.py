"""Stage 2 and its use: training a face parser, and parsing photographs."""
