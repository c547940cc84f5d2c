"""The follower: read model, feed, snapshots, and answers to questions from the read model. It never decides."""
