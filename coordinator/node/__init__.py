"""The node agent: brings the containers of one machine to their desired state and reports what it sees."""
