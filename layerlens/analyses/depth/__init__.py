"""What if layers are left out, repeated, reordered or rounded?"""
