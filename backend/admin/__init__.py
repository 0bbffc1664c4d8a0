"""What operations and admins see: readiness, counters, projects, queues."""
