"""How an analysis is declared, run, stopped, estimated and turned into a labelled result."""
