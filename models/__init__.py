"""Everything with parameters, gradients or scores."""
