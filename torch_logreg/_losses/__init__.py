"""Terms of the objective: losses, links, criteria and penalties."""
