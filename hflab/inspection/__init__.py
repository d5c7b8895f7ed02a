"""What a model looks at while it reads a text: attention weights, or a recurrent model's surprise and state, as pictures and as a page."""
