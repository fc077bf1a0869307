"""Language models of text, causal and masked; importing Reformers."""
