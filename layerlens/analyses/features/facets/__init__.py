"""What the texts that excite one neuron have in common, group by group."""
