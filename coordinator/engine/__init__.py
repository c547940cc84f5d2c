"""The writer's turn: take commands, decide, place, append one commit, answer."""
