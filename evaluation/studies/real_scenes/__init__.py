"""What teachers and students know of real scans: the figures of docs/experiments/real-scenes.md."""
