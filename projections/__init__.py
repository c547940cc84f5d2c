"""What is: the folds of what happened, and the read models kept from them. Nothing here decides."""
