"""What people see of a run: progress, the table at the end, and `report.html`."""
