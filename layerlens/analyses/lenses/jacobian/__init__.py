"""The Jacobian lens: what a state makes the model say, now and later, to first order."""
