"""What every room uses: errors, files, pictures, checkpoints, configs, runs."""
