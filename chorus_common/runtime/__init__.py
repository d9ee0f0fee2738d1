"""What every program needs: errors, settings, atomic files, store paths, processes, threads, progress, devices."""
