	.text
	.amdgcn_target "amdgcn-amd-amdhsa--gfx1201"
together:                               ; @together
; %bb.0:
	s_load_b128 s[4:7], s[0:1], 0x0
	v_lshlrev_b32_e32 v13, 4, v0
	v_xor_b32_e32 v14, 1, v0
	s_load_b64 s[0:1], s[0:1], 0x10
	v_lshlrev_b32_e32 v0, 2, v0
	s_wait_kmcnt 0x0
	s_clause 0x2
	global_load_b128 v[1:4], v13, s[6:7]
	global_load_b128 v[5:8], v13, s[4:5] th:TH_LOAD_NT
	global_load_b128 v[9:12], v13, s[4:5] offset:2048 th:TH_LOAD_NT
	v_lshlrev_b32_e32 v14, 4, v14
	s_wait_loadcnt 0x2
	ds_store_b128 v13, v[1:4]
	s_wait_loadcnt_dscnt 0x0
	s_barrier_signal -1
	s_barrier_wait -1
	ds_load_b128 v[1:4], v14
	v_xor_b32_e32 v5, v5, v6
	s_wait_dscnt 0x0
	v_xor_b32_e32 v1, v1, v2
	s_delay_alu instid0(VALU_DEP_2) | instskip(NEXT) | instid1(VALU_DEP_2)
	v_xor3_b32 v2, v5, v7, v8
	v_xor3_b32 v1, v1, v3, v4
	s_delay_alu instid0(VALU_DEP_1) | instskip(SKIP_1) | instid1(VALU_DEP_1)
	v_mul_lo_u32 v1, v1, v2
	v_xor3_b32 v2, v9, v10, v11
	v_xad_u32 v1, v2, v12, v1
	global_store_b32 v0, v1, s[0:1]
	s_nop 0
	s_sendmsg sendmsg(MSG_DEALLOC_VGPRS)
	s_endpgm
	.section	.rodata,"a",@progbits
chained:                                ; @chained
; %bb.0:
	s_load_b128 s[4:7], s[0:1], 0x0
	v_dual_mov_b32 v4, 0 :: v_dual_lshlrev_b32 v5, 2, v0
	s_mov_b32 s2, exec_lo
	s_wait_kmcnt 0x0
	global_load_b32 v3, v5, s[6:7]
	s_wait_loadcnt 0x0
	v_lshlrev_b64_e32 v[0:1], 4, v[3:4]
	s_delay_alu instid0(VALU_DEP_1) | instskip(NEXT) | instid1(VALU_DEP_2)
	v_add_co_u32 v0, vcc_lo, s4, v0
	v_add_co_ci_u32_e32 v1, vcc_lo, s5, v1, vcc_lo
	global_load_b128 v[0:3], v[0:1], off th:TH_LOAD_NT
	s_wait_loadcnt 0x0
	v_xor3_b32 v0, v0, v1, v3
	s_delay_alu instid0(VALU_DEP_1)
	v_cmpx_ne_u32_e64 v0, v2
	s_cbranch_execz .LBB1_2
; %bb.1:
	v_mov_b32_e32 v3, v4
	s_load_b64 s[0:1], s[0:1], 0x10
	s_delay_alu instid0(VALU_DEP_1) | instskip(NEXT) | instid1(VALU_DEP_1)
	v_lshlrev_b64_e32 v[0:1], 2, v[2:3]
	v_add_co_u32 v0, vcc_lo, s6, v0
	s_delay_alu instid0(VALU_DEP_2)
	v_add_co_ci_u32_e32 v1, vcc_lo, s7, v1, vcc_lo
	global_load_b32 v0, v[0:1], off
	s_wait_loadcnt 0x0
	s_wait_kmcnt 0x0
	global_store_b32 v5, v0, s[0:1]
.LBB1_2:
	s_nop 0
	s_sendmsg sendmsg(MSG_DEALLOC_VGPRS)
	s_endpgm
	.section	.rodata,"a",@progbits
looped:                                 ; @looped
; %bb.0:
	s_clause 0x1
	s_load_b32 s4, s[0:1], 0x10
	s_load_b128 s[0:3], s[0:1], 0x0
	v_mov_b32_e32 v3, 0
	s_wait_kmcnt 0x0
	s_cmp_lt_i32 s4, 1
	s_cbranch_scc1 .LBB2_3
; %bb.1:
	v_lshlrev_b32_e32 v1, 4, v0
	v_mov_b32_e32 v3, 0
	s_delay_alu instid0(VALU_DEP_2) | instskip(NEXT) | instid1(VALU_DEP_1)
	v_add_co_u32 v1, s0, s0, v1
	v_add_co_ci_u32_e64 v2, null, s1, 0, s0
.LBB2_2:                                ; =>This Inner Loop Header: Depth=1
	global_load_b128 v[4:7], v[1:2], off th:TH_LOAD_NT
	v_add_co_u32 v1, vcc_lo, 0x800, v1
	v_add_co_ci_u32_e32 v2, vcc_lo, 0, v2, vcc_lo
	s_add_co_i32 s4, s4, -1
	s_delay_alu instid0(SALU_CYCLE_1) | instskip(SKIP_2) | instid1(VALU_DEP_1)
	s_cmp_eq_u32 s4, 0
	s_wait_loadcnt 0x0
	v_xor3_b32 v4, v4, v5, v6
	v_xad_u32 v3, v4, v7, v3
	s_cbranch_scc0 .LBB2_2
.LBB2_3:
	v_lshlrev_b32_e32 v0, 2, v0
	global_store_b32 v0, v3, s[2:3]
	s_nop 0
	s_sendmsg sendmsg(MSG_DEALLOC_VGPRS)
	s_endpgm
	.section	.rodata,"a",@progbits
	.section	.bss,"aw",@nobits
